-- KEYS marks
-- ARGV name, value, what is expected (absent: nothing)
local standing = redis.call('HGET', KEYS[1], ARGV[1])
if (standing or nil) ~= ARGV[3] then
  return { 'other' }
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return { 'ok' }
