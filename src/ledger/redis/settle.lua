-- KEYS leases due pending forget counts, and every index that one of the leases is in
-- ARGV now, then for each lease ten: id, hold, how (`ended`, `retry`, `stuck`, `later` or `abandoned`), agent, tool,
--      task; the proof's instant, or the next attempt; the signature on the receipt, or what went wrong; the proof; the
--      indexes that it leaves, as the numbers of their keys in two bytes each
-- Answers a word for each lease, and behind that of one that was to be abandoned, the lease.
local now = tonumber(ARGV[1])
local ids = {}
for n = 2, #ARGV, 10 do
  ids[#ids + 1] = ARGV[n]
end
local stored = read_all(KEYS[1], ids)
local reply = { 'ok' }
local values, due, pending, over, ended, forget, counts = {}, {}, {}, {}, {}, {}, {}
local indexes, stands = {}, {}

local function refusal(l, how, hold)
  if not l then
    return 'no_lease'
  elseif how == 'abandoned' then
    -- Whoever is at it: a person gives it up.
    return l.state ~= 's' and 'lease_not_stuck'
  end
  return ((l.state ~= 'v' and l.state ~= 's') or l.hold ~= hold) and 'claim_lost'
end

for number, id in ipairs(ids) do
  local n = number * 10 - 8
  local how, at, said = ARGV[n + 2], ARGV[n + 6], ARGV[n + 7]
  local raw = stands[id] or stored[number]
  local l = raw and lease_read(raw)
  local refused = refusal(l, how, tonumber(ARGV[n + 1]))
  if not refused then
    -- A hold is good for one settlement.
    l.hold, l.at = l.hold + 1, tonumber(at)
    if how == 'ended' or how == 'abandoned' then
      l.state, l.since, l.proof, l.error = 'e', now, tonumber(ARGV[n + 8]), said
      over[#over + 1], ended[#ended + 1] = 'l' .. id, id
      forget[#forget + 1], forget[#forget + 2] = now, 'l' .. id
      counts[#counts + 1], counts[#counts + 2] = 't' .. ARGV[n + 5], 'a' .. ARGV[n + 3]
      counts[#counts + 1] = 'c' .. ARGV[n + 4]
      for byte = 1, #ARGV[n + 9], 2 do
        local key = KEYS[(struct.unpack('>H', ARGV[n + 9], byte))]
        local index = indexes[key] or {}
        index[#index + 1], index[#index + 2] = place(1, id), id
        indexes[key] = index
      end
    else
      due[#due + 1], due[#due + 2] = at, 'l' .. id
      if how ~= 'later' then
        l.attempts, l.error = math.min(l.attempts + 1, 4294967295), said
        l.state = how == 'stuck' and 's' or 'v'
        pending[#pending + 1], pending[#pending + 2] = place(STATES[l.state], id), id
      end
    end
    raw = lease_pack(l)
    stands[id] = raw
    values[#values + 1], values[#values + 2] = id, raw
  end
  reply[#reply + 1] = refused or 'ok'
  if how == 'abandoned' and raw then
    reply[#reply + 1] = raw
  end
end

many('HSET', KEYS[1], values)
many('ZADD', KEYS[2], due)
many('ZADD', KEYS[3], pending)
many('ZREM', KEYS[2], over)
many('ZREM', KEYS[3], ended)
many('ZADD', KEYS[4], forget)
count_down(KEYS[5], counts)
for n = 6, #KEYS do
  many('ZADD', KEYS[n], indexes[KEYS[n]] or {})
end
return reply
