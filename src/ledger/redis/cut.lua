-- KEYS cutoffs feed seq
-- ARGV selector, up_to, cutoff, at, publish?
local up_to = tonumber(ARGV[2])
-- How far it reaches, and the instant from which on it stands for the retention.
local stands = math.max(up_to, tonumber(ARGV[4]))
local value = struct.pack('>I6I6', up_to, stands) .. ARGV[3]
local standing = redis.call('HGET', KEYS[1], ARGV[1])
if standing == value then
  return { 'ok' }
end

if not standing or up_to > (struct.unpack('>I6', standing)) then
  local reach = redis.call('HGET', KEYS[1], '!')
  local far, near = up_to, stands
  if reach then
    local reached, nearest = struct.unpack('>I6I6', reach)
    far, near = math.max(far, reached), math.min(near, nearest)
  end
  redis.call('HSET', KEYS[1], ARGV[1], value, '!', struct.pack('>I6I6', far, near))
end
if ARGV[5] == '1' then
  publish(KEYS[2], KEYS[3], tonumber(ARGV[4]), 'c', ARGV[3])
end
return { 'ok' }
