-- expire: removes detached members whose time is over, before somebody asks who is a member.
-- Allowed out of memory, as leave. Follows epoch.lua, append.lua, members.lua.
--
-- ARGV  7 how many at most
expire_due(ARGV[7])
return 0
