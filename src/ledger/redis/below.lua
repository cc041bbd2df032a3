-- KEYS tasks below
-- ARGV id
-- The sub-tasks below a task that have not ended, oldest first.
local reply = { 'ok' }
for n, id in ipairs(below(KEYS[2], ARGV[1])) do
  reply[n + 1] = { redis.call('HGET', KEYS[1], id) }
end
return reply
