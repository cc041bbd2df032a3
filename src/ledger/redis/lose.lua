-- KEYS lineage
-- ARGV epoch
-- Takes every writer out of this epoch. Where that is done already a recovery may be counting.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] and redis.call('HEXISTS', KEYS[1], 'lost') == 0 then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'lost', 1)
end
return { 'ok' }
