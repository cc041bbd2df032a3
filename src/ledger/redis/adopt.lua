-- KEYS leases due pending counts tools and every index that it is in
-- ARGV id, value, due, task, agent, tool
-- Writes down a lease that has to end, whatever became of its task.
local id = ARGV[1]
if redis.call('HSETNX', KEYS[1], id, ARGV[2]) == 0 then
  return { 'exists' }
end
redis.call('ZADD', KEYS[2], ARGV[3], 'l' .. id)
redis.call('ZADD', KEYS[3], place(STATES.v, id), id)
for _, field in ipairs({ 't' .. ARGV[4], 'a' .. ARGV[5], 'c' .. ARGV[6] }) do
  redis.call('HINCRBY', KEYS[4], field, 1)
end
redis.call('HINCRBY', KEYS[5], ARGV[6], 1)
for n = 6, #KEYS do
  redis.call('ZADD', KEYS[n], made_at(id), id)
end
return { 'ok' }
