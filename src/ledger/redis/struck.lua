-- KEYS places
-- ARGV hour, first page, last page
-- Which places of these pages were struck.
local struck = {}
for page = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local stored = redis.call('HGET', KEYS[1], struct.pack('>I4I4', tonumber(ARGV[1]), page)) or NO_PAGE
  struck[#struck + 1] = string.sub(stored, 33)
end
return { 'ok', table.concat(struck) }
