-- renew: takes a lease or renews it. A dead lease stays dead. Allowed when memory is full, because nobody should die of that.
-- Follows lease.lua.
--
-- ARGV  2 the lease's length, milliseconds  3 'last' if its owner ends
-- reply { 'live' | 'lost', this server's milliseconds at its end, entries of the index } | { 'dead' }
--   lost: the lease was missing or provisional.
--   The end is used for the deadlines of joins and logins only.
if state == 'dead' then return { 'dead' } end
local was_live = state == 'live'
write('live', ARGV[2])
if ARGV[3] == 'last' then call('HSET', lease, 'ended', 1) end
return { was_live and 'live' or 'lost', format('%d', milliseconds() + ARGV[2]), call('HLEN', index) }
