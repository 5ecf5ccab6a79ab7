-- list_sessions: one step of a scan of an incarnation's sessions that are members of a channel, each with its user. It is
-- not flagged no-writes, so a replica refuses it. Allowed when memory is full.
--
-- KEYS  1 sessions of the incarnation  2 sessions, as in members.lua
-- ARGV  1 cursor  2 about how many
-- reply { cursor, session, '1' if the user is a number, user, … }
local part = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local reply = { part[1] }
for _, session in ipairs(part[2]) do
  local record = redis.call('HGET', KEYS[2], session)
  if record then
    local number, user = string.match(record, '^%d+\n(%d)\n.*\n([^\n]*)$')
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = session, number, user
  end
end
return reply
