-- resign: an incarnation writes its own death. Allowed out of memory. Follows lease.lua.
if state ~= 'dead' then bury() end
return 'dead'
