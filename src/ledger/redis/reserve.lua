-- KEYS tasks leases due pending counts tools cutoffs forget above hours places, every index that it is in,
--      [idempotency]
-- ARGV id, task, value, now, key ('' none), state, due, agent, tool, budgets of task, agent and tool ('' none),
--      how many indexes, content, the version of the facts, the entries of a status list in this shard where the lease
--      is to have one ('' otherwise), where the search for it begins, selectors...
local id, task, value, now, key, content = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[14]

if key ~= '' then
  local content_before, first = key_read(KEYS[#KEYS])
  if content_before then
    if content_before ~= content then
      return { 'key_reused' }
    end
    return { 'repeated', first }
  end
end
local t, not_open = task_open(KEYS[1], KEYS[9], task, now)
if not t then
  return not_open
end
local reached, stale = in_reach(KEYS[7], id, tonumber(ARGV[15]))
if stale then
  return { 'stale_facts' }
end
if reached then
  local cut = cut_by(KEYS[7], id, { unpack(ARGV, 18) })
  if cut then
    return { 'cut', cut }
  end
end
local fields = { 't' .. task, 'a' .. ARGV[8], 'c' .. ARGV[9] }
local live = redis.call('HMGET', KEYS[5], unpack(fields))
for n = 1, 3 do
  live[n] = tonumber(live[n] or 0)
  local limit = ARGV[9 + n]
  if limit ~= '' and live[n] >= tonumber(limit) then
    return { 'budget', n }
  end
end
if redis.call('HEXISTS', KEYS[2], id) == 1 then
  return { 'exists' }
end

local at = 0
if ARGV[16] ~= '' then
  -- The next free place in the part of the hour that has room. Half of a part is given out, so it is near.
  local capacity, drawn = tonumber(ARGV[16]), tonumber(ARGV[17])
  local hour = math.floor(t.deadline / 3600000)
  local part = math.floor((redis.call('HINCRBY', KEYS[10], hour, 1) - 1) / (capacity / 2))
  if (part + 1) * capacity > NUMBERS then
    return { 'places' }
  end
  local field, page, byte, mask
  repeat
    local number = part * capacity + drawn
    local name
    name, byte, mask = spot(hour, number)
    if name ~= field then
      field, page = name, redis.call('HGET', KEYS[11], name) or NO_PAGE
    end
    at, drawn = hour * NUMBERS + number, (drawn + 1) % capacity
  until bit.band(string.byte(page, byte), mask) == 0
  redis.call('HSET', KEYS[11], field, with_bit(page, byte, mask))
  value = string.sub(value, 1, 39) .. struct.pack('>I6', at) .. string.sub(value, 46)
end
redis.call('HSET', KEYS[2], id, value)

redis.call('HSET', KEYS[5], fields[1], live[1] + 1, fields[2], live[2] + 1, fields[3], live[3] + 1)
redis.call('ZADD', KEYS[3], ARGV[7], 'l' .. id)
if STATES[ARGV[6]] then
  redis.call('ZADD', KEYS[4], place(STATES[ARGV[6]], id), id)
end
redis.call('HINCRBY', KEYS[6], ARGV[9], 1)
for n = 12, 11 + tonumber(ARGV[13]) do
  redis.call('ZADD', KEYS[n], made_at(id), id)
end
if key ~= '' then
  key_write(KEYS[#KEYS], KEYS[8], key, content, id, now)
end
return { 'ok', at }
