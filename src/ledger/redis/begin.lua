-- KEYS lineage
-- ARGV epoch, writers...
-- Begins an epoch in place of whatever there was, with these writers.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
for n = 2, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[n], 1)
end
return { 'ok' }
