-- KEYS lineage
-- ARGV epoch
-- Takes every writer out of this epoch.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'lost', 1)
end
return { 'ok' }
