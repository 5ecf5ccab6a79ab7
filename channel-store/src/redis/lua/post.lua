-- post: publishes a letter to the inbox of a process, with the time of this server. The receiver's lease is on the same server,
-- so the receiver can tell how old the letter is. Allowed when memory is full: it writes nothing. Follows clock.lua.
--
-- KEYS  1 topic of the inbox
-- ARGV  1 the command that publishes  2 content
-- reply how many subscribers this server has given it to
return redis.call(ARGV[1], KEYS[1], string.format('%d', milliseconds()) .. '\n' .. ARGV[2])
