-- look_user: all entries of a user; keeps them from expiring. Not flagged no-writes, so that a replica refuses it. Allowed
-- out of memory. Follows user.lua.
--
-- KEYS  3 tombstone of an incarnation
-- reply { 1 if it was reaped here, session, generation, incarnation, state, proof, … }
remember()
local reply = { call('EXISTS', KEYS[3]) }
for _, entry in ipairs(others()) do
  for _, field in ipairs({ entry.session, entry.generation, entry.incarnation, entry.state, entry.proof }) do
    reply[#reply + 1] = field
  end
end
return reply
