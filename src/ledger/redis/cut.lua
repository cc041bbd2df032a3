-- KEYS for each shard its cutoffs and its lineage, and behind them, where it tells, the feed and seq of the first shard
-- ARGV selector, up_to, cutoff, at, writer, whether it tells ('1')
-- Answers the count of the writer in each shard (0: it is not entered).
local up_to, tells = tonumber(ARGV[2]), ARGV[6] == '1'
-- How far it reaches, and the instant from which on it stands for the retention.
local stands = math.max(up_to, tonumber(ARGV[4]))
local value = struct.pack('>I6I6', up_to, stands) .. ARGV[3]
local last = tells and #KEYS - 2 or #KEYS
local reply, news = { 'ok' }, false
for n = 1, last, 2 do
  local cutoffs, lineage = KEYS[n], KEYS[n + 1]
  local standing, reach = unpack(redis.call('HMGET', cutoffs, ARGV[1], '!'))
  if standing ~= value then
    news = news or n == 1
    if not standing or up_to > (struct.unpack('>I6', standing)) then
      local far, near = up_to, stands
      if reach then
        local reached, nearest = struct.unpack('>I6I6', reach)
        far, near = math.max(far, reached), math.min(near, nearest)
      end
      redis.call('HSET', cutoffs, ARGV[1], value, '!', struct.pack('>I6I6', far, near))
    end
  end
  local entered = redis.call('HEXISTS', lineage, ARGV[5]) == 1
  reply[#reply + 1] = entered and redis.call('HINCRBY', lineage, ARGV[5], 1) or 0
end
if tells and news then
  publish(KEYS[last + 1], KEYS[last + 2], tonumber(ARGV[4]), 'c', ARGV[3])
end
return reply
