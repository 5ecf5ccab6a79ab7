-- summary: what a channel is at present. It is not flagged no-writes, so a replica refuses it (READONLY). Allowed when memory
-- is full. Follows clock.lua.
--
-- KEYS  1 meta  2 log  3 sessions  4 users  5 detached members
-- reply { epoch, last offset, users, sessions, id of the oldest entry that is held, id of the newest, 1 if the time of a
--       detached member is over, bytes that are held }; nil if nothing was published in the channel and it has no member
--       | { 'deleted' } if it was deleted, nothing was published since, and it has no member
local m = redis.call('HMGET', KEYS[1], 'e', 'n', 'z', 'b', 'y')
local epoch, last, sessions = m[1] or '', tonumber(m[2] or 0), redis.call('HLEN', KEYS[3])
if last == 0 and sessions == 0 then return false end
if sessions == 0 and last == tonumber(m[3]) then return { 'deleted' } end
local oldest, newest
if m[1] then -- otherwise the log is what is left of an earlier life of the channel
  oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
end

-- How many bytes there are from an offset on. append.lua says what is counted. What lies between two marks counts as equally long.
local function held_from(offset)
  local total = tonumber(string.match(m[4] or '0', '^%d+'))
  local before, at = 0, tonumber(m[3] or 0) -- this life of the channel began with nothing
  local marks = (m[5] or '') .. string.format(' %d 0 %d', total, last)
  for bytes, to in string.gmatch(marks, '(%d+) %d+ (%d+)') do
    bytes, to = tonumber(bytes), tonumber(to)
    if to >= offset then
      return math.floor(total - before - (bytes - before) * math.max(0, offset - 1 - at) / (to - at))
    end
    before, at = bytes, to
  end
  return 0
end

local held = oldest and held_from(tonumber(string.match(oldest[1], '^%d+'))) or 0
local due = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', string.format('%d', milliseconds()), 'LIMIT', 0, 1)
return {
  epoch, last, redis.call('HLEN', KEYS[4]), sessions, oldest and oldest[1] or '', newest and newest[1] or '', #due, held,
}
