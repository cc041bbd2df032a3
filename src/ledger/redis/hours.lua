-- KEYS hours
-- The hours of which there are status lists, each with how many places were given out.
local reply = { 'ok' }
for _, number in ipairs(redis.call('HGETALL', KEYS[1])) do
  reply[#reply + 1] = tonumber(number)
end
return reply
