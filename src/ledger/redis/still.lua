-- How a step that looks for somebody to rely on runs: like guard.lua, and nothing is written. No count of
-- this writer, or a lower one than was answered before, is a ledger that is not what it was.
local seen, writer, lineage = tonumber(table.remove(ARGV)), table.remove(ARGV), table.remove(KEYS)
local progress = tonumber(redis.call('HGET', lineage, writer) or 0)
if progress == 0 or progress < seen then
  return { 'lost' }
end
local reply = step()
table.insert(reply, 2, progress)
return reply
