-- index_add: writes entries into the index of a live incarnation. The index of a dead one is sealed. Refused when memory is
-- full. Follows lease.lua.
--
-- ARGV  2 key  3 nonce  4 key  5 nonce …
-- reply 'done' | 'lost': there is no live lease | 'dead'
if state == 'dead' then return 'dead' end
if state ~= 'live' then return 'lost' end
for i = 2, #ARGV, 2 do call('HSET', index, ARGV[i], ARGV[i + 1]) end
remember()
return 'done'
