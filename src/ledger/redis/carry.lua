-- KEYS cutoffs
-- ARGV version
-- Nothing is given out in this shard any more that was decided on facts of before this version.
local version = tonumber(ARGV[1])
local known = redis.call('HGET', KEYS[1], '#')
if not known or (struct.unpack('>I6', known)) < version then
  redis.call('HSET', KEYS[1], '#', struct.pack('>I6', version))
end
return { 'ok' }
