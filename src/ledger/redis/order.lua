-- KEYS context rechecks queue
-- ARGV key, record, how far its cutoff reaches, revision ('' none), whom the order to decide
--      everything anew is about, and its record, the most orders
local order = { key = ARGV[1], record = ARGV[2], reach = tonumber(ARGV[3]), revision = ARGV[4] }
local all = { whom = ARGV[5], record = ARGV[6] }
if not enqueue(KEYS[1], KEYS[2], KEYS[3], order, all, tonumber(ARGV[7])) then
  return { 'too_many' }
end
return { 'ok' }
