-- linger: the client of a session is gone, and the session stays a member for a while. Its entry holds nobody off any more.
-- A superseded entry stays superseded. Allowed when memory is full, because it changes one digit. Follows user.lua.
--
-- ARGV  2 session
-- reply 1 if there is an entry, else 0
local entry = call('HGET', entries, ARGV[2])
if not entry then return 0 end
local rank, incarnation, state, proof = parsed(entry)
if state == '0' then write(ARGV[2], rank, incarnation, '2', proof) end
return 1
