-- KEYS lineage
-- ARGV epoch, writer
-- Enters a writer, in the epoch that there is; where there is none, in this one.
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'lost') == 1 then
  return { 'other' }
end
redis.call('HSETNX', KEYS[1], ARGV[2], 1)
return { 'ok', tonumber(redis.call('HGET', KEYS[1], ARGV[2])) }
