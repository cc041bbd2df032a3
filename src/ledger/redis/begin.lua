-- KEYS lineage
-- ARGV epoch, the writer that recovers, its count (0: not counted), writers...
-- Begins an epoch in place of whatever there was, with these writers: unless what the recovery did was lost.
local count = tonumber(ARGV[3])
if count > 0 and tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) ~= count then
  return { 'lost' }
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
for n = 4, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[n], 1)
end
return { 'ok' }
