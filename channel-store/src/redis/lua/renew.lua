-- renew: takes a lease, or pushes its end forward; a dead one stays as it is. Allowed out of memory: nobody is to die of
-- that. Follows lease.lua.
--
-- ARGV  2 milliseconds from now
-- reply { 'live' | 'lost', until, entries of the index } | { 'dead' }
--   lost: it was missing, or provisional
if state == 'dead' then return { 'dead' } end
local time = milliseconds() + ARGV[2]
write('live', time)
return { state == 'live' and 'live' or 'lost', format('%d', time), call('HLEN', index) }
