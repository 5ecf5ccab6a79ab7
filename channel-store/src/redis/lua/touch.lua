-- touch: keeps a channel, its log and its members from expiring, and tells where the log ends. Not flagged no-writes: so
-- a replica refuses it (READONLY).
--
-- KEYS  1 meta  2 log  3 sessions  4 users  5 detached  6 incarnations
-- ARGV  1 seconds the log lives, and 2 meta and members do, where meta doesn't say (k, as append.lua notes it)
--       3 the same for a channel without members where nothing was ever said but joins and leaves
-- reply { epoch, offset }, both nil for a channel without a life
local m = redis.call('HMGET', KEYS[1], 'e', 'n', 'k', 'b')
local log_life, life = string.match(m[3] or '', '^(%d+) (%d+)$')
log_life, life = log_life or ARGV[1], life or ARGV[2]
if string.match(m[4] or '0', '%d+$') == '0' and redis.call('EXISTS', KEYS[3]) == 0 then
  log_life, life = math.min(log_life, ARGV[3]), math.min(life, ARGV[3])
end
redis.call('EXPIRE', KEYS[2], log_life)
for _, key in ipairs({ KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6] }) do redis.call('EXPIRE', key, life) end
return { m[1], m[2] }
