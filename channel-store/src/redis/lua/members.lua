-- members: the members of a channel, by session and by user. It is part of every script that changes them, and follows
-- append.lua and clock.lua. A script that calls remove or announce must call fan_out before it ends.
--
-- KEYS  6 sessions (hash: session -> record)  7 users (hash: user -> number of sessions)
--       8 detached members (zset: session -> when its time is over, this server's milliseconds)
--       9 incarnations (set: those that have sessions here)
--       10 infos (hash: user -> the JSON object that everybody may see), of users who have one
-- ARGV  6 '1' if joins and leaves are published
-- A record is lines: operation, '1' if the user is a number, epoch, offset, '1' if onJoin was published, incarnation, user.
-- Names hold no control characters.
local sessions, users, detached, incarnations, infos, announced = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], ARGV[6] == '1'

-- Appends onJoin or onLeave. The user has the JSON type that the client used. The info is '' or a JSON object.
local function announce(route, user, number, info)
  local json = number == '1' and user or '"' .. string.gsub(user, '["\\]', '\\%0') .. '"'
  if info ~= '' then json = json .. ',"info":' .. info end
  append(route .. '\0' .. user .. '\0{"userId":' .. json .. '}')
end

-- Ends a session's membership. Appends onLeave if it was the user's last one and leaves are published here.
local function remove(session, record)
  local number, user = string.match(record, '^%d+\n(%d)\n.*\n([^\n]*)$')
  call('HDEL', sessions, session)
  call('ZREM', detached, session)
  if call('HINCRBY', users, user, -1) <= 0 then
    call('HDEL', users, user)
    call('HDEL', infos, user)
    if announced then announce('onLeave', user, number, '') end
  end
end

-- Removes detached members that did not join again in time. Returns how many.
local function expire_due(most)
  local removed = 0
  for _, session in ipairs(call('ZRANGEBYSCORE', detached, '-inf', format('%d', milliseconds()), 'LIMIT', 0, most)) do
    local record = call('HGET', sessions, session)
    if record then remove(session, record) else call('ZREM', detached, session) end
    removed = removed + 1
  end
  return removed
end
