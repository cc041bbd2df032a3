-- KEYS context facts lapses rechecks queue
-- ARGV now, until, revision, limit, how many ends may go in a row before a decision
-- Facts that lapse come first: the caller sees them off (lapse.lua) and asks again. Then the first order that
-- nobody holds, and that waits for no other revision: the version of the facts, the hold, the order. Decisions have
-- their turn after so many ends that they waited for.
local now = tonumber(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[4])
if #due > 0 then
  local reply = { 'lapses' }
  for n, key in ipairs(due) do
    reply[n + 1] = { redis.call('HGET', KEYS[2], key) }
  end
  return reply
end

local function first_from(place)
  local some, offset = nil, 0
  repeat
    some = redis.call('ZRANGEBYSCORE', KEYS[5], place, '+inf', 'LIMIT', offset, 100)
    for _, key in ipairs(some) do
      local o = order_read(redis.call('HGET', KEYS[4], key))
      if (o.hold == 0 or o.untl <= now) and (o.revision == '' or o.revision == ARGV[3]) then
        return key, o
      end
    end
    offset = offset + 100
  until #some < 100
end

local decisions = string.format('%.0f', CLASS)
local ends = tonumber(redis.call('HGET', KEYS[1], 'e') or 0)
local key, o
if ends >= tonumber(ARGV[5]) then
  key, o = first_from(decisions)
end
if not key then
  -- Where none could take its turn, looking for one is not paid for again at each end.
  if ends >= tonumber(ARGV[5]) then
    ends = 0
  end
  key, o = first_from('-inf')
end
if not key then
  return { 'none' }
end
if not decides(kind_of(key)) and redis.call('ZCOUNT', KEYS[5], decisions, '+inf') > 0 then
  redis.call('HSET', KEYS[1], 'e', ends + 1)
else
  redis.call('HDEL', KEYS[1], 'e')
end
o.hold, o.untl = redis.call('HINCRBY', KEYS[1], 'q', 1), tonumber(ARGV[2])
local packed = order_pack(o)
redis.call('HSET', KEYS[4], key, packed)
return { 'ok', tonumber(redis.call('HGET', KEYS[1], 'v') or 0), o.hold, packed }
