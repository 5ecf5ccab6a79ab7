-- index_drop: takes entries out of an index which still have the nonce that the caller has seen. Allowed when memory is full.
-- Follows lease.lua.
--
-- ARGV  2 'owner': only while the incarnation is not dead; 'reaper': only once it is  3 key  4 nonce  5 key  6 nonce …
-- reply how many
if (ARGV[2] == 'reaper') ~= (state == 'dead') then return 0 end
local dropped = 0
for i = 3, #ARGV, 2 do
  if call('HGET', index, ARGV[i]) == ARGV[i + 1] then dropped = dropped + call('HDEL', index, ARGV[i]) end
end
return dropped
