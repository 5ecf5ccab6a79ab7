-- renew: takes a lease, or renews it; a dead one stays as it is. Allowed out of memory: nobody is to die of that.
-- Follows lease.lua.
--
-- ARGV  2 the lease's length, milliseconds
-- reply { 'live' | 'lost', this server's milliseconds at its end, entries of the index } | { 'dead' }
--   lost: it was missing, or provisional
--   The end serves for the deadlines of joins alone.
if state == 'dead' then return { 'dead' } end
local was_live = state == 'live'
write('live', ARGV[2])
return { was_live and 'live' or 'lost', format('%d', milliseconds() + ARGV[2]), call('HLEN', index) }
