-- KEYS context facts told lapses subjects rechecks queue
-- ARGV key, subject, since when it is so, expires at (0: never), value ('' none), record, now, when it is
--      forgotten once it is over, the most of one subject, in force, and in all; then the order to decide anew as
--      key and record, whom the one to decide everything anew is about, its record, and the most orders
local key, subject, at, expires_at, value = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = tonumber(ARGV[7])
local version = tonumber(redis.call('HGET', KEYS[1], 'v') or 0)
local raw = redis.call('HGET', KEYS[2], key)
local standing = raw and fact_read(raw)
if standing and at < standing.at then
  return { 'superseded', version }
end

local function so(f)
  return (f.expires_at == 0 or now < f.expires_at) and f.value or ''
end
local f = { state = 'o', at = at, expires_at = expires_at, value = value, record = ARGV[6] }
f.version = standing and standing.version or 0
local was, is = '', so(f)
local counted = standing and standing.state == 'v'
if counted then
  was = so(standing)
end
if is ~= '' then
  f.state = 'v'
  if not counted and (tonumber(redis.call('HGET', KEYS[5], subject) or 0) >= tonumber(ARGV[9])
      or tonumber(redis.call('HGET', KEYS[1], 'n') or 0) >= tonumber(ARGV[10])) then
    return { 'too_many', version }
  end
end
if not standing and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[11]) then
  return { 'too_many', version }
end

local told = was ~= is or (is ~= '' and expires_at ~= standing.expires_at)
if told then
  version = math.max(version + 1, now)
  f.version = version
  redis.call('HSETNX', KEYS[1], 'f', string.format('%.0f', version - 1))
  redis.call('HSET', KEYS[1], 'v', string.format('%.0f', version))
  redis.call('ZADD', KEYS[3], string.format('%.0f', version), key)
end
-- One that has expired, and that nobody saw off yet, is seen off here.
if was ~= is or (counted and was == '') then
  local order = { key = ARGV[12], record = ARGV[13], reach = 0, revision = '' }
  enqueue(KEYS[1], KEYS[6], KEYS[7], order, { whom = ARGV[14], record = ARGV[15] }, tonumber(ARGV[16]))
end
redis.call('HSET', KEYS[2], key, fact_pack(f))
if f.state == 'o' then
  redis.call('ZADD', KEYS[4], ARGV[8], key)
elseif expires_at > 0 then
  redis.call('ZADD', KEYS[4], ARGV[4], key)
else
  redis.call('ZREM', KEYS[4], key)
end
if f.state == 'v' and not counted then
  count_facts(KEYS[1], KEYS[5], subject, 1)
elseif f.state == 'o' and counted then
  count_facts(KEYS[1], KEYS[5], subject, -1)
end
return { told and 'ok' or 'unchanged', version }
