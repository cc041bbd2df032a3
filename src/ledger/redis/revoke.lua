-- KEYS leases due pending feed seq places
-- ARGV cause, now, when they are due, whether to answer how they stand ('' no), ids...
-- Answers how many were turned, and where it was asked for each lease as it then stands ('' there is none).
local cause, now = tonumber(ARGV[1]), tonumber(ARGV[2])
local ids = { unpack(ARGV, 5) }
local stored = read_all(KEYS[1], ids)
local turned, leases, stands = {}, {}, {}
for n, id in ipairs(ids) do
  local l = stored[n] and lease_read(stored[n])
  if l and (l.state == 'r' or l.state == 'a') and not stands[id] then
    turned[#turned + 1], leases[#leases + 1] = id, l
  end
  stands[id] = stored[n] or ''
end

strike(KEYS[6], leases)
local values, due, pending, told = {}, {}, {}, {}
for n, id in ipairs(turned) do
  turn(leases[n], cause, now)
  stands[id] = lease_pack(leases[n])
  values[#values + 1], values[#values + 2] = id, stands[id]
  due[#due + 1], due[#due + 2] = ARGV[3], 'l' .. id
  pending[#pending + 1], pending[#pending + 2] = place(STATES.v, id), id
  told[n] = end_of(cause, id)
end
many('HSET', KEYS[1], values)
many('ZADD', KEYS[2], due)
many('ZADD', KEYS[3], pending)
publish_all(KEYS[4], KEYS[5], now, 'l', told)

local reply = { 'ok', #turned }
if ARGV[4] ~= '' then
  for _, id in ipairs(ids) do
    reply[#reply + 1] = stands[id]
  end
end
return reply
