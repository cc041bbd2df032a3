-- KEYS context facts told
-- ARGV since, after which statement to go on ('' from the first that is wanted), limit
-- Answers the latest version and whether everything is told anew; then statements, each with its version.
local since, after = tonumber(ARGV[1]), ARGV[2]
local known = redis.call('HMGET', KEYS[1], 'v', 'f')
local version, from = tonumber(known[1] or 0), tonumber(known[2])
local afresh = since ~= version and (since > version or not from or since < from)
local reply = { 'ok', version, afresh and 1 or 0 }
if after == '' then
  after = afresh and '0' or ARGV[1]
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. after, '+inf', 'LIMIT', 0, ARGV[3])) do
  local raw = redis.call('HGET', KEYS[2], key)
  reply[#reply + 1] = { fact_read(raw).version, raw }
end
return reply
