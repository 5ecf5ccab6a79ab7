-- linger: a session's client is gone, and it stays a member for a while. Its entry holds nobody off any more. One that is
-- superseded stays so. Allowed out of memory: it changes one digit. Follows user.lua.
--
-- ARGV  2 session
-- reply 1 if there is an entry, else 0
local entry = call('HGET', entries, ARGV[2])
if not entry then return 0 end
local generation, incarnation, state, proof = parsed(entry)
if state == '0' then write(ARGV[2], generation, incarnation, '2', proof) end
return 1
