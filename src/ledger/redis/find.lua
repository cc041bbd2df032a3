-- KEYS leases index...
-- ARGV after ('' from the start), limit, states ('' all), classes...
-- The first leases of the union of the indexes, in order of their ids, no more than `limit` looked at.
-- Answers the id up to which it looked ('' when that is all there is), then the leases that fit.
local after, limit, states = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- Lua compares strings by the server's locale, so ids are compared as the numbers they spell.
local function spell(id)
  local high, middle, low = struct.unpack('>I6I6I4', id)
  return { id = id, high = high, middle = middle, low = low }
end
local function before(x, y)
  if x.high ~= y.high then
    return x.high < y.high
  end
  if x.middle ~= y.middle then
    return x.middle < y.middle
  end
  return x.low < y.low
end

local start = after ~= '' and spell(after)
local found = {}
for k = 2, #KEYS do
  for a = 4, #ARGV do
    local class = tonumber(ARGV[a])
    local from = string.format('%.0f', start and place(class, after) or class * CLASS)
    local below = '(' .. string.format('%.0f', (class + 1) * CLASS)
    -- Ids of the same instant as `after` may have been seen; one more than the limit tells whether there is more.
    local offset, taken, some = 0, 0
    repeat
      some = redis.call('ZRANGEBYSCORE', KEYS[k], from, below, 'LIMIT', offset, limit + 1)
      for _, id in ipairs(some) do
        local lease = spell(id)
        if taken <= limit and (not start or before(start, lease)) then
          found[#found + 1] = lease
          taken = taken + 1
        end
      end
      offset = offset + limit + 1
    until #some <= limit or taken > limit
  end
end
table.sort(found, before)

local reply = { 'ok', #found > limit and found[limit].id or '' }
for n = 1, math.min(#found, limit) do
  local id = found[n].id
  local raw = redis.call('HGET', KEYS[1], id)
  if raw and (states == '' or string.find(states, string.sub(raw, 17, 17), 1, true)) then
    reply[#reply + 1] = { id, raw }
  end
end
return reply
