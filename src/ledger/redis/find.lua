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
-- Of each index its share is looked at. What lies behind the last that was looked at of an index with more may come
-- before others that were found, so it is for the next call.
local share = math.ceil(limit / ((#KEYS - 1) * (#ARGV - 3)))
local found, bound = {}, nil
for k = 2, #KEYS do
  for a = 4, #ARGV do
    local class = tonumber(ARGV[a])
    local from = string.format('%.0f', start and place(class, after) or class * CLASS)
    local below = '(' .. string.format('%.0f', (class + 1) * CLASS)
    -- Ids of the same instant as `after` may have been seen; one more than the share tells whether there is more.
    local offset, some, mine = 0, nil, {}
    repeat
      some = redis.call('ZRANGEBYSCORE', KEYS[k], from, below, 'LIMIT', offset, share + 1)
      for _, id in ipairs(some) do
        local lease = spell(id)
        if not start or before(start, lease) then
          mine[#mine + 1] = lease
        end
      end
      offset = offset + share + 1
    until #some <= share or #mine > share
    for n = 1, math.min(#mine, share) do
      found[#found + 1] = mine[n]
    end
    if #mine > share and (not bound or before(mine[share], bound)) then
      bound = mine[share]
    end
  end
end
table.sort(found, before)

local reply = { 'ok', bound and bound.id or '' }
for _, lease in ipairs(found) do
  if bound and before(bound, lease) then
    break
  end
  local id = lease.id
  local raw = redis.call('HGET', KEYS[1], id)
  if raw and (states == '' or string.find(states, string.sub(raw, 17, 17), 1, true)) then
    reply[#reply + 1] = { id, raw }
  end
end
return reply
