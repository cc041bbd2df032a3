-- KEYS context facts told lapses subjects rechecks queue
-- ARGV key, subject, now, when it is forgotten; then the order to decide anew as key and record, whom the one to
--      decide everything anew is about, its record, and the most orders
-- Sees off a fact that has expired, or forgets one that is over for long.
local key, now = ARGV[1], tonumber(ARGV[3])
local due = redis.call('ZSCORE', KEYS[4], key)
if not due or tonumber(due) > now then
  return { 'ok' } -- another replica was faster, or it was stated anew
end
local f = fact_read(redis.call('HGET', KEYS[2], key))
if f.state == 'v' then
  local order = { key = ARGV[5], record = ARGV[6], reach = 0, revision = '' }
  enqueue(KEYS[1], KEYS[6], KEYS[7], order, { whom = ARGV[7], record = ARGV[8] }, tonumber(ARGV[9]))
  f.state = 'o'
  redis.call('HSET', KEYS[2], key, fact_pack(f))
  redis.call('ZADD', KEYS[4], ARGV[4], key)
  count_facts(KEYS[1], KEYS[5], ARGV[2], -1)
  return { 'ok' }
end
redis.call('HDEL', KEYS[2], key)
redis.call('ZREM', KEYS[3], key)
redis.call('ZREM', KEYS[4], key)
-- Whoever has not come as far does not learn of it any more.
local from = redis.call('HGET', KEYS[1], 'f')
if from and f.version > tonumber(from) then
  redis.call('HSET', KEYS[1], 'f', string.format('%.0f', f.version))
end
return { 'ok' }
