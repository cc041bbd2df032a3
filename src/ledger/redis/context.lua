-- What the scripts about facts and rechecks share. All of it is in the first shard. Rust packs and unpacks the
-- same heads: `context.rs`.

-- in force (v) or over (o), since when it is so, when it expires (0: never), the number of its statement, value
local FACT = '>c1I6I6I6Hc0'
-- who holds it (0: nobody), until when, how far its cutoff reaches, the revision that it waits for
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

local function decides(key)
  return string.sub(key, 1, 1) == 'd'
end

-- The last place in the queue: ends are in front of decisions.
local function last_place(context, key)
  return string.format('%.0f', (decides(key) and CLASS or 0) + redis.call('HINCRBY', context, 'q', 1))
end

local function put_order(context, rechecks, queue, key, order, standing)
  redis.call('HSET', rechecks, key, order_pack(order))
  if not standing then
    redis.call('ZADD', queue, last_place(context, key), key)
  end
end

-- Puts the order to decide everything anew into the place of all narrower ones: of those that wait for a
-- revision only if it does too, or if they have to go.
local function put_everything(context, rechecks, queue, all, revision, have_to_go)
  local raw = redis.call('HGET', rechecks, all.key)
  if raw and revision == '' then
    revision = order_read(raw).revision
  end
  for _, other in ipairs(redis.call('HKEYS', rechecks)) do
    if decides(other) and other ~= all.key then
      local o = order_read(redis.call('HGET', rechecks, other))
      if have_to_go and revision == '' then
        revision = o.revision
      end
      if o.revision == '' or revision ~= '' then
        redis.call('HDEL', rechecks, other)
        redis.call('ZREM', queue, other)
      end
    end
  end
  local order = { hold = 0, untl = 0, reach = 0, revision = revision, record = all.record }
  put_order(context, rechecks, queue, all.key, order, raw)
end

-- Puts an order into the queue, or into the place of the one that it replaces. False where there is no room.
-- `all` is the order to decide everything anew.
local function enqueue(context, rechecks, queue, order, all, most)
  local key, revision = order.key, order.revision
  local raw = redis.call('HGET', rechecks, key)
  local full = not raw and redis.call('HLEN', rechecks) >= most
  if key == all.key or (full and decides(key)) then
    put_everything(context, rechecks, queue, all, revision, full)
    return true
  end
  if full then
    local others = redis.call('ZCOUNT', queue, string.format('%.0f', CLASS), '+inf')
    if others < 2 then
      return false
    end
    put_everything(context, rechecks, queue, all, '', true)
  end
  local standing = raw and order_read(raw)
  if standing and standing.reach > order.reach then
    return true
  end
  if standing and revision == '' then
    revision = standing.revision
  end
  local packed = { hold = 0, untl = 0, reach = order.reach, revision = revision, record = order.record }
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
