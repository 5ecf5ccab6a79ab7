-- entries: all entries of a user. It also keeps them from expiring. It is not flagged no-writes, so a replica refuses it.
-- Allowed when memory is full. Follows restrictions.lua, user.lua.
--
-- KEYS  3 tombstone of an incarnation  4 restrictions
-- reply { 1 if the incarnation was reaped here, { what is forbidden: see restrictions.lua },
--         session, login rank, incarnation, state, proof, … }
remember()
local reply = { call('EXISTS', KEYS[3]), in_force(KEYS[4]) }
for _, entry in ipairs(others()) do
  for _, field in ipairs({ entry.session, entry.rank, entry.incarnation, entry.state, entry.proof }) do
    reply[#reply + 1] = field
  end
end
return reply
