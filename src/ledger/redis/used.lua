-- KEYS counts of one shard or of many
-- ARGV field
local used = { 'ok' }
for n, counts in ipairs(KEYS) do
  used[n + 1] = tonumber(redis.call('HGET', counts, ARGV[1]) or 0)
end
return used
