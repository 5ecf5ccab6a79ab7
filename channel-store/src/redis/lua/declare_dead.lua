-- declare_dead: writes death into a lease whose beat is still the one that was seen, for as long as the caller had to see it.
-- No clock is asked. A lease that is missing is lost data, no death: it comes back, so that its owner takes it over or it
-- is declared dead later. Allowed out of memory. Follows lease.lua.
--
-- ARGV  2 the beat that was seen  3 the length of a lease that comes back, milliseconds
-- reply 'dead' | 'alive' | 'provisional'
if state == 'dead' then return 'dead' end
if not state then
  write('provisional', ARGV[3])
  return 'provisional'
end
if (beat or '0') ~= ARGV[2] then return 'alive' end
bury()
return 'dead'
