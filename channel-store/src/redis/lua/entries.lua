-- entries: all entries of a user. It also keeps them from expiring. It is not flagged no-writes, so a replica refuses it.
-- Allowed when memory is full. Follows user.lua.
--
-- KEYS  3 tombstone of an incarnation
-- reply { 1 if the incarnation was reaped here, session, login rank, incarnation, state, proof, … }
remember()
local reply = { call('EXISTS', KEYS[3]) }
for _, entry in ipairs(others()) do
  for _, field in ipairs({ entry.session, entry.rank, entry.incarnation, entry.state, entry.proof }) do
    reply[#reply + 1] = field
  end
end
return reply
