-- expire: removes detached members whose time is over. Allowed when memory is full, as leave.
-- Follows epoch.lua, append.lua, clock.lua, members.lua.
--
-- ARGV  7 how many at most
-- reply milliseconds until the time of the next one is over; nil: there are no detached members
local expired = expire_due(ARGV[7])
fan_out()
if expired > 0 then refresh() end
local first = call('ZRANGEBYSCORE', detached, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return first[1] and math.max(0, tonumber(first[2]) - milliseconds())
