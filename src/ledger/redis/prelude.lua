-- What every script starts with. Rust packs and unpacks the same heads: `packed.rs`.
--
-- A value is a head, which scripts read and write, and a record, which only Rust reads. Numbers are
-- big-endian; instants are milliseconds in 6 bytes. Where head and record differ, the head counts.
-- A script checks everything first and writes after: Redis does not roll back.

-- state, outcome (how many tasks are above it, while it has not ended), ended at, deadline, heartbeat (0: none), last
-- beat, agent
local TASK = '>c1BI6I6I6I6Bc0'
-- task, state, cause, expires at, since (or ended at), attempts, hold (odd while somebody has it), proof,
-- the proof's instant (or, while it has to end, when it is due next), handle, last error (or, once it has ended,
-- the signature on its receipt), what the last renewal says in the record's stead ('' before the first)
-- While it is reserved or active, `cause` and `since` are those of an end before its expiry (0 where there is
-- none), `proof` is the cause of its end at its expiry, and the proof's instant is its place on the status lists: the
-- hour times NUMBERS, and the number in it (0: it has none).
local LEASE = '>c16c1BI6I6I4I4BI6Hc0Hc0Bc0'
-- Places in an index: a class above, the instant of making below, and ids in order within an instant.
local CLASS = 281474976710656 -- 2^48
local STATES = { r = 0, v = 1, s = 2 } -- the classes of `pending`
-- Places on status lists are kept in pages of 256: 32 bytes that say which are taken, then 32 that say which are
-- struck, the first in the lowest bit.
local NUMBERS = 268435456 -- 2^28
local PAGE = 256
local NO_PAGE = string.rep('\0', 64)

local function task_read(raw)
  local t = {}
  local rest
  t.state, t.outcome, t.ended_at, t.deadline, t.heartbeat, t.beat_at, t.agent, rest = struct.unpack(TASK, raw)
  t.record = string.sub(raw, rest)
  return t
end

local function task_pack(t)
  return struct.pack(TASK, t.state, t.outcome, t.ended_at, t.deadline, t.heartbeat, t.beat_at,
    #t.agent, t.agent) .. t.record
end

-- When the task ends by itself; a suspended one sends no heartbeats.
local function task_due(t)
  if t.state == 'o' and t.heartbeat > 0 then
    return math.min(t.deadline, t.beat_at + t.heartbeat)
  end
  return t.deadline
end

-- The task, where it is open at `now`, and so is each task above. Otherwise nothing, and the refusal.
local function task_open(tasks, above, id, now)
  local raw = redis.call('HGET', tasks, id)
  if not raw then
    return nil, { 'no_task' }
  end
  local t = task_read(raw)
  if t.state ~= 'o' or now >= task_due(t) then
    return nil, { 'task_not_open', raw }
  end
  local chain = t.outcome > 0 and redis.call('HGET', above, id) or ''
  for n = 1, #chain, 16 do
    local parent = redis.call('HGET', tasks, string.sub(chain, n, n + 15))
    if not parent then
      return nil, { 'no_task' }
    end
    local p = task_read(parent)
    if p.state ~= 'o' or now >= task_due(p) then
      return nil, { 'parent_not_open', parent }
    end
  end
  return t
end

local function lease_read(raw)
  local l = {}
  local rest
  l.task, l.state, l.cause, l.expires_at, l.since, l.attempts, l.hold, l.proof, l.at, l.handle, l.error,
    l.renewal, rest = struct.unpack(LEASE, raw)
  l.record = string.sub(raw, rest)
  return l
end

local function lease_pack(l)
  return struct.pack(LEASE, l.task, l.state, l.cause, l.expires_at, l.since, l.attempts, l.hold, l.proof, l.at,
    #l.handle, l.handle, #l.error, l.error,
    #l.renewal, l.renewal) .. l.record
end

local function made_at(id)
  local at = struct.unpack('>I6', id)
  return at
end

local function place(class, id)
  return class * CLASS + made_at(id)
end

-- When a live lease has to end: with its credential, or before.
local function ends_at(l)
  return l.cause ~= 0 and math.min(l.since, l.expires_at) or l.expires_at
end

-- Turns a reserved or active lease to `revoking`.
local function turn(l, cause, now)
  l.state, l.cause, l.since, l.attempts, l.proof, l.at, l.error = 'v', cause, now, 0, 0, 0, ''
end

-- Where a place is kept: the name of its page, the byte in it and the bit.
local function spot(hour, number)
  return struct.pack('>I4I4', hour, math.floor(number / PAGE)), math.floor(number % PAGE / 8) + 1,
    bit.lshift(1, number % 8)
end

local function with_bit(page, byte, mask)
  return string.sub(page, 1, byte - 1) .. string.char(bit.bor(string.byte(page, byte), mask)) ..
    string.sub(page, byte + 1)
end

-- One command about many members, or several where they are more than Lua can pass at once; none where there are none.
local AT_ONCE = 1000 -- even, so that pairs stay together
local function many(command, key, members)
  for from = 1, #members, AT_ONCE do
    redis.call(command, key, unpack(members, from, math.min(from + AT_ONCE - 1, #members)))
  end
end

-- What a hash holds under each of these fields, in their order; false where there is nothing.
local function read_all(hash, fields)
  local values = {}
  for from = 1, #fields, AT_ONCE do
    local some = redis.call('HMGET', hash, unpack(fields, from, math.min(from + AT_ONCE - 1, #fields)))
    for n, value in ipairs(some) do
      values[from + n - 1] = value
    end
  end
  return values
end

-- Strikes the places of leases that are about to be turned: whoever reads the lists refuses their credentials.
local function strike(places, leases)
  local fields, bits = {}, {}
  for _, l in ipairs(leases) do
    if l.at ~= 0 then
      local field, byte, mask = spot(math.floor(l.at / NUMBERS), l.at % NUMBERS)
      if not bits[field] then
        fields[#fields + 1], bits[field] = field, {}
      end
      table.insert(bits[field], { byte = byte + 32, mask = mask })
    end
  end
  local struck = {}
  for n, page in ipairs(read_all(places, fields)) do
    if page then
      for _, place in ipairs(bits[fields[n]]) do
        page = with_bit(page, place.byte, place.mask)
      end
      struck[#struck + 1], struck[#struck + 2] = fields[n], page
    end
  end
  many('HSET', places, struck)
end

-- Appends to the feed of the shard: under `c` a cutoff's record, under `l` the cause and the id of a lease, under `t`
-- those of a task.
-- Numbers never fall behind the clock, so that a reader's cursor is not passed over when a lost Redis
-- starts again from nothing.
local function publish_all(feed, seq, at, kind, told)
  if #told == 0 then
    return
  end
  local number = tonumber(redis.call('GET', seq)) or 0
  for _, what in ipairs(told) do
    number = math.max(number + 1, at)
    redis.call('XADD', feed, string.format('%.0f-0', number), kind, struct.pack('>I6', at) .. what)
  end
  redis.call('SET', seq, string.format('%.0f', number))
end

local function publish(feed, seq, at, kind, what)
  publish_all(feed, seq, at, kind, { what })
end

-- What the feed says of a lease, or of a task.
local function end_of(cause, id)
  return struct.pack('B', cause) .. id
end

-- The number of the first of these selectors whose cutoff ends a lease of this id.
local function cut_by(cutoffs, id, selectors)
  for number, stored in ipairs(redis.call('HMGET', cutoffs, unpack(selectors))) do
    if stored and made_at(id) <= (struct.unpack('>I6', stored)) then
      return number
    end
  end
  return nil
end

-- Whether some cutoff reaches leases as old as this one: only then it matters whose the lease is. And whether
-- something was stated after the version of the facts that a decision knew, if it is one.
local function in_reach(cutoffs, id, facts)
  local reach, version = unpack(redis.call('HMGET', cutoffs, '!', '#'))
  return reach and made_at(id) <= (struct.unpack('>I6', reach)),
    facts and version and facts < (struct.unpack('>I6', version))
end

-- The lease, where its credential may be used at `now`: it is active, its task and each above is open, and no cutoff
-- ends it.
-- Otherwise nothing, and the refusal. The head does not say whose the lease is. That matters only when some
-- cutoff reaches leases as old as this one; then, without selectors, the refusal is `who`, and the caller asks
-- again with those that fit the lease, which never change.
local function live(leases, tasks, above, cutoffs, id, now, selectors, facts)
  local raw = redis.call('HGET', leases, id)
  if not raw then
    return nil, { 'no_lease' }
  end
  local l = lease_read(raw)
  if l.state ~= 'a' then
    return nil, { 'lease_not_open', raw }
  end
  if now >= ends_at(l) then
    return nil, { 'expired' }
  end
  local t, not_open = task_open(tasks, above, l.task, now)
  if not t then
    return nil, not_open
  end
  local reached, stale = in_reach(cutoffs, id, facts)
  if stale then
    return nil, { 'stale_facts' }
  end
  if reached then
    if #selectors == 0 then
      return nil, { 'who', raw }
    end
    local cut = cut_by(cutoffs, id, selectors)
    if cut then
      return nil, { 'cut', cut }
    end
  end
  return l
end

-- The ids of the sub-tasks below a task that have not ended, oldest first: each pair of the two is a member.
local function below(pairs, id)
  local ids = redis.call('ZRANGEBYLEX', pairs, '[' .. id, '[' .. id .. string.rep('\255', 16))
  for n, pair in ipairs(ids) do
    ids[n] = string.sub(pair, 17)
  end
  return ids
end

-- One less in each of these fields, as often as it is named, and no entry where there is none left.
local function count_down(counts, fields)
  local names, less = {}, {}
  for _, field in ipairs(fields) do
    if not less[field] then
      names[#names + 1] = field
    end
    less[field] = (less[field] or 0) + 1
  end
  local left, gone = {}, {}
  for n, count in ipairs(read_all(counts, names)) do
    local rest = (tonumber(count) or 0) - less[names[n]]
    if rest > 0 then
      left[#left + 1], left[#left + 2] = names[n], rest
    else
      gone[#gone + 1] = names[n]
    end
  end
  many('HSET', counts, left)
  many('HDEL', counts, gone)
end

-- What an idempotency key stands for: the content, and the id that it made. It goes with the retention.
local function key_read(name)
  local seen = redis.call('GET', name)
  if seen then
    return string.sub(seen, 1, 32), string.sub(seen, 33)
  end
end

local function key_write(name, forget, key, content, id, now)
  redis.call('SET', name, content .. id)
  redis.call('ZADD', forget, now, 'k' .. key)
end
