-- How a step that somebody relies on runs: like guard.lua, and nothing changes. No count of this writer, a
-- lower one than was answered before, or another epoch is a ledger that is not what it was. It asks as whoever
-- writes does, so that a node refuses that is the primary no more, or has fewer replicas than it is to have; a
-- removal of what is not there changes nothing and is sent to no replica.
local epoch, seen = table.remove(ARGV), tonumber(table.remove(ARGV))
local writer, lineage = table.remove(ARGV), table.remove(KEYS)
redis.call('HDEL', lineage, '')
local stands = redis.call('HMGET', lineage, 'epoch', writer)
local progress = tonumber(stands[2] or 0)
if stands[1] ~= epoch or progress == 0 or progress < seen then
  return { 'lost' }
end
local reply = step()
table.insert(reply, 2, progress)
return reply
