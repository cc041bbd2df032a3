-- KEYS context facts lapses rechecks queue
-- ARGV now, until, revision, limit
-- Facts that lapse come first: the caller sees them off (lapse.lua) and asks again. Then the first order that
-- nobody holds, and that waits for no other revision: the version of the facts, the hold, the order.
local now = tonumber(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[4])
if #due > 0 then
  local reply = { 'lapses' }
  for n, key in ipairs(due) do
    reply[n + 1] = { redis.call('HGET', KEYS[2], key) }
  end
  return reply
end

local some, offset = nil, 0
repeat
  some = redis.call('ZRANGE', KEYS[5], offset, offset + 99)
  for _, key in ipairs(some) do
    local o = order_read(redis.call('HGET', KEYS[4], key))
    if (o.hold == 0 or o.untl <= now) and (o.revision == '' or o.revision == ARGV[3]) then
      o.hold, o.untl = redis.call('HINCRBY', KEYS[1], 'q', 1), tonumber(ARGV[2])
      local packed = order_pack(o)
      redis.call('HSET', KEYS[4], key, packed)
      return { 'ok', tonumber(redis.call('HGET', KEYS[1], 'v') or 0), o.hold, packed }
    end
  end
  offset = offset + 100
until #some < 100
return { 'none' }
