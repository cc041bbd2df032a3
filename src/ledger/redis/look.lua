-- KEYS due forget feed cutoffs hours places
-- ARGV now, until which what is over is old, the first hour whose status lists are not over, the entries of a status
--      list in this shard
-- How much there is to do in the shard. What can be dropped on the spot is dropped: entries of the feed
-- that are old, cutoffs that nothing can match any more, and status lists whose tokens are all over.
local old = tonumber(ARGV[2])
local function written_at(entry)
  local at = struct.unpack('>I6', entry[2][2])
  return at
end
local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if first and written_at(first) <= old then
  local entries = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1000)) do
    if written_at(entry) > old then
      break
    end
    entries[#entries + 1] = entry[1]
  end
  redis.call('XDEL', KEYS[3], unpack(entries))
end

local reach = redis.call('HGET', KEYS[4], '!')
if reach then
  local _, nearest = struct.unpack('>I6I6', reach)
  if nearest <= old then
    local cutoffs = redis.call('HGETALL', KEYS[4])
    local far, near
    for n = 1, #cutoffs, 2 do
      if cutoffs[n] ~= '!' and cutoffs[n] ~= '#' then
        local up_to, stands = struct.unpack('>I6I6', cutoffs[n + 1])
        if stands <= old then
          redis.call('HDEL', KEYS[4], cutoffs[n])
        else
          far, near = math.max(far or up_to, up_to), math.min(near or stands, stands)
        end
      end
    end
    if far then
      redis.call('HSET', KEYS[4], '!', struct.pack('>I6I6', far, near))
    else
      redis.call('HDEL', KEYS[4], '!')
    end
  end
end
local earliest, capacity = tonumber(ARGV[3]), tonumber(ARGV[4])
for _, hour in ipairs(redis.call('HKEYS', KEYS[5])) do
  if tonumber(hour) < earliest then
    local parts = math.ceil(tonumber(redis.call('HGET', KEYS[5], hour)) / (capacity / 2))
    for page = 0, parts * capacity / PAGE - 1 do
      redis.call('HDEL', KEYS[6], struct.pack('>I4I4', tonumber(hour), page))
    end
    redis.call('HDEL', KEYS[5], hour)
    break
  end
end
return { 'ok', redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1]), redis.call('ZCOUNT', KEYS[2], '-inf', ARGV[2]) }
