-- KEYS feed seq
-- ARGV since, limit
-- A cursor from beyond the end is of a ledger that was lost: it starts again.
local since = tonumber(ARGV[1])
local last = tonumber(redis.call('GET', KEYS[2])) or 0
if since > last then
  since = 0
end
local reply = { 'ok', last }
local from = string.format('%.0f-0', since + 1)
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[2])) do
  reply[#reply + 1] = { tonumber(string.match(entry[1], '^%d+')), entry[2][1], entry[2][2] }
end
return reply
