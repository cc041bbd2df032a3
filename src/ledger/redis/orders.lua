-- KEYS rechecks queue
-- ARGV from which place, to which
local reply = { 'ok' }
for n, key in ipairs(redis.call('ZRANGE', KEYS[2], ARGV[1], ARGV[2])) do
  reply[n + 1] = redis.call('HGET', KEYS[1], key)
end
return reply
