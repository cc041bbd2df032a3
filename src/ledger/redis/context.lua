-- What the scripts about facts and rechecks share. All of it is in the first shard. Rust packs and unpacks the
-- same heads: `context.rs`.

-- in force (v) or over (o), since when it is so, when it expires (0: never), the number of its statement, value
local FACT = '>c1I6I6I6Hc0'
-- who holds it (0: nobody), until when (0: nobody began yet), how far its cutoff reaches, the revision that it
-- waits for
local ORDER = '>I6I6I6Bc0'

local function fact_read(raw)
  local f = {}
  local rest
  f.state, f.at, f.expires_at, f.version, f.value, rest = struct.unpack(FACT, raw)
  f.record = string.sub(raw, rest)
  return f
end

local function fact_pack(f)
  return struct.pack(FACT, f.state, f.at, f.expires_at, f.version, #f.value, f.value) .. f.record
end

local function order_read(raw)
  local o = {}
  local rest
  o.hold, o.untl, o.reach, o.revision, rest = struct.unpack(ORDER, raw)
  o.record = string.sub(raw, rest)
  return o
end

local function order_pack(o)
  return struct.pack(ORDER, o.hold, o.untl, o.reach, #o.revision, o.revision) .. o.record
end

-- Decisions: by whichever revision is in force (d), or by one that they name (r).
local function decides(kind)
  return kind == 'd' or kind == 'r'
end

local function kind_of(key)
  return string.sub(key, 1, 1)
end

-- Under which key the walk stands that is due once the one under way is done: beside the orders, and in no queue.
local function again(key)
  return '+' .. key
end

-- The last place in the queue: ends are in front of decisions.
local function last_place(context, key)
  return string.format('%.0f', (decides(kind_of(key)) and CLASS or 0) + redis.call('HINCRBY', context, 'q', 1))
end

-- Puts an order into the place of the one that stands under its key, if any does. A walk that somebody began comes
-- to its end first, unless it is by another revision.
local function put_order(context, rechecks, queue, key, order, standing)
  if standing and standing.untl ~= 0 and standing.revision == order.revision then
    local due = redis.call('HGET', rechecks, again(key))
    if not due or order_read(due).reach <= order.reach then
      redis.call('HSET', rechecks, again(key), order_pack(order))
    end
    return
  end
  redis.call('HSET', rechecks, key, order_pack(order))
  if standing then
    redis.call('HDEL', rechecks, again(key))
  else
    redis.call('ZADD', queue, last_place(context, key), key)
  end
end

-- Puts the order to decide everything anew into the place of all narrower ones of a kind. Without a revision it takes
-- one of theirs. Where it was not ordered, only if there are several.
local function put_everything(context, rechecks, queue, kind, all, ordered, revision)
  local key, narrower = kind .. all.whom, {}
  for _, other in ipairs(redis.call('HKEYS', rechecks)) do
    if kind_of(other) == kind and other ~= key then
      narrower[#narrower + 1] = other
    end
  end
  local raw = redis.call('HGET', rechecks, key)
  local standing = raw and order_read(raw)
  if not ordered and #narrower + (standing and 1 or 0) < 2 then
    return
  end
  if revision == '' and standing then
    revision = standing.revision
  end
  for _, other in ipairs(narrower) do
    if revision == '' then
      revision = order_read(redis.call('HGET', rechecks, other)).revision
    end
    redis.call('HDEL', rechecks, other, again(other))
    redis.call('ZREM', queue, other)
  end
  local order = { hold = 0, untl = 0, reach = 0, revision = revision, record = all.record }
  put_order(context, rechecks, queue, key, order, standing)
end

-- Puts an order into the queue, or into the place of the one that stands under its key. False where there is no room.
-- `all` is the order to decide everything anew: whom, and the record.
local function enqueue(context, rechecks, queue, order, all, most)
  local key, kind = order.key, kind_of(order.key)
  local raw = redis.call('HGET', rechecks, key)
  local full = not raw and redis.call('ZCARD', queue) >= most
  if decides(kind) and (full or key == kind .. all.whom) then
    put_everything(context, rechecks, queue, kind, all, true, order.revision)
    return true
  end
  if full then
    if redis.call('ZCOUNT', queue, string.format('%.0f', CLASS), '+inf') < 2 then
      return false
    end
    put_everything(context, rechecks, queue, 'd', all, false, '')
    put_everything(context, rechecks, queue, 'r', all, false, '')
    if redis.call('ZCARD', queue) >= most then
      return false
    end
  end
  local standing = raw and order_read(raw)
  if standing and standing.reach > order.reach then
    return true
  end
  local packed = { hold = 0, untl = 0, reach = order.reach, revision = order.revision, record = order.record }
  put_order(context, rechecks, queue, key, packed, standing)
  return true
end

-- Counts one fact more, or one less, about its subject.
local function count_facts(context, subjects, subject, by)
  redis.call('HINCRBY', context, 'n', by)
  if redis.call('HINCRBY', subjects, subject, by) <= 0 then
    redis.call('HDEL', subjects, subject)
  end
end
