-- login: enters a session; under 'reject' only where nobody else is. Repeated, it answers the same. Without flags: refused
-- as a whole when it could not be stored. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session  5… tombstones of the buried
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 seconds that tombstones stand
--       7… incarnations that are dead
-- reply { 'done', generation, others } | { 'taken', incarnation, … } | { 'dead' } | { 'late', milliseconds } | { 'closed' }
local session = ARGV[2]
local refused = refusal(KEYS[3], KEYS[4], ARGV[4])
if refused then return refused end
for i = 7, #ARGV do bury(KEYS[i - 2], ARGV[6], ARGV[i]) end

local there = others(session)
local own = call('HGET', entries, session)
if own then return { 'done', (parsed(own)), #there } end
if #there > 0 and ARGV[5] == 'reject' then
  local reply = { 'taken' }
  for i, entry in ipairs(there) do reply[i + 1] = entry.incarnation end
  return reply
end

-- At least this server's clock in microseconds: so that it does not go back when data is lost.
local time = call('TIME')
local generation = math.max(tonumber(call('GET', given) or 0) + 1, time[1] * 1000000 + time[2])
generation = format('%d', generation)
call('SET', given, generation)
write(session, generation, ARGV[3], '0')
remember()
return { 'done', generation, #there }
