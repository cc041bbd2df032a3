-- KEYS of a lease: leases forget tools and every index that it is in; of a task: tasks forget by_task;
--      of an idempotency key: idempotency forget
-- ARGV kind, id, now, tool
local kind, id = ARGV[1], ARGV[2]
if kind == 'k' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], 'k' .. id)
  return { 'ok' }
end
if kind == 't' then
  if redis.call('EXISTS', KEYS[3]) == 1 then
    -- Leases outlast their task while a provider cannot be reached. It stays as long as they do.
    redis.call('ZADD', KEYS[2], ARGV[3], 't' .. id)
  else
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], 't' .. id)
  end
  return { 'ok' }
end
if redis.call('ZREM', KEYS[2], 'l' .. id) == 0 then
  return { 'ok' } -- another replica was faster
end
redis.call('HDEL', KEYS[1], id)
if redis.call('HINCRBY', KEYS[3], ARGV[4], -1) <= 0 then
  redis.call('HDEL', KEYS[3], ARGV[4])
end
for n = 4, #KEYS do
  redis.call('ZREM', KEYS[n], id)
end
return { 'ok' }
