-- KEYS lineage
-- ARGV writer
-- Takes the shard for a recovery, whatever there is of it: nobody may use it, and from here on its steps count.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
redis.call('DEL', KEYS[1])
if epoch then
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
redis.call('HSET', KEYS[1], 'lost', 1, ARGV[1], 1)
return { 'ok', 1 }
