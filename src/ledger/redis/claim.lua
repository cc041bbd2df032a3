-- KEYS tasks leases due pending feed seq places
-- ARGV now, until, limit, the causes of an expired lease and of an abandoned reservation
local now, untl, expired, abandoned = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local members = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local ids = { t = {}, l = {} }
for _, member in ipairs(members) do
  local some = ids[string.sub(member, 1, 1)]
  some[#some + 1] = string.sub(member, 2)
end
local function by_id(hash, some)
  local values = {}
  for n, raw in ipairs(read_all(hash, some)) do
    values[some[n]] = raw
  end
  return values
end
local tasks, leases = by_id(KEYS[1], ids.t), by_id(KEYS[2], ids.l)
for id, raw in pairs(leases) do
  leases[id] = raw and lease_read(raw)
end

local claims, values, held, gone, pending, published, struck = { 'ok' }, {}, {}, {}, {}, {}, {}
-- A credential may be out that looks as if it were good for longer, or that nobody told us of.
local function tell(id, l, cause)
  if now < l.expires_at then
    published[#published + 1], struck[#struck + 1] = end_of(cause, id), { at = l.at }
  end
end
for _, member in ipairs(members) do
  local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
  local raw, l = tasks[id], leases[id]
  if kind == 'l' and l then
    if l.state == 'a' or l.state == 'r' then
      if l.state == 'r' then
        tell(id, l, abandoned)
        turn(l, abandoned, now)
      elseif l.cause ~= 0 and l.since < l.expires_at then
        tell(id, l, l.cause)
        turn(l, l.cause, l.since)
      else
        turn(l, l.proof ~= 0 and l.proof or expired, l.expires_at)
      end
      pending[#pending + 1], pending[#pending + 2] = place(STATES.v, id), id
    end
    -- Odd numbers are holds; a hold that ran out is followed by the next odd one.
    l.hold = l.hold + 1 + l.hold % 2
    l.at = tonumber(untl)
    raw = lease_pack(l)
    values[#values + 1], values[#values + 2] = id, raw
  end
  if raw then
    held[#held + 1], held[#held + 2] = untl, member
    claims[#claims + 1] = { kind, id, raw }
  else
    gone[#gone + 1] = member
  end
end

strike(KEYS[7], struck)
publish_all(KEYS[5], KEYS[6], now, 'l', published)
many('HSET', KEYS[2], values)
many('ZADD', KEYS[3], held)
many('ZREM', KEYS[3], gone)
many('ZADD', KEYS[4], pending)
return claims
